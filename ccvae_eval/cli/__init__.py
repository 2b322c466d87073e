"""The command line: each verb parses, makes one call and prints."""
