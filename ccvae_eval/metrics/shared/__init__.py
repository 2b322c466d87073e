"""What more than one metric uses."""
