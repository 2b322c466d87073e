"""BibTeX of the publications that define the metrics and the statistics."""

from __future__ import annotations

from collections.abc import Iterable

_ENTRIES = {
    "joy2021ccvae": ("inproceedings", "Joy, Tom and Schmon, Sebastian M. and Torr, Philip H. S. and Siddharth, N. and "
        "Rainforth, Tom", "Capturing Label Characteristics in {VAE}s", 2021,
        "International Conference on Learning Representations"),
    "wang2009divergence": ("article", "Wang, Qing and Kulkarni, Sanjeev R. and Verd{\\'u}, Sergio",
        "Divergence Estimation for Multidimensional Densities Via k-Nearest-Neighbor Distances", 2009,
        "IEEE Transactions on Information Theory"),
    "delong1988areas": ("article", "DeLong, Elizabeth R. and DeLong, David M. and Clarke-Pearson, Daniel L.",
        "Comparing the Areas under Two or More Correlated Receiver Operating Characteristic Curves: A Nonparametric "
        "Approach", 1988, "Biometrics"),
    "lewis1995fast": ("inproceedings", "Lewis, J. P.", "Fast Normalized Cross-Correlation", 1995, "Vision Interface"),
    "wang2004ssim": ("article", "Wang, Zhou and Bovik, Alan C. and Sheikh, Hamid R. and Simoncelli, Eero P.",
        "Image Quality Assessment: From Error Visibility to Structural Similarity", 2004,
        "IEEE Transactions on Image Processing"),
    "yao2025measurement": ("inproceedings", "Yao, Dingling and Huang, Shimeng and Cadei, Riccardo and Zhang, Kun and "
        "Locatello, Francesco", "The Third Pillar of Causal Analysis? {A} Measurement Perspective on Causal "
        "Representations", 2025, "Advances in Neural Information Processing Systems"),
    "shah2020hardness": ("article", "Shah, Rajen D. and Peters, Jonas", "The Hardness of Conditional Independence "
        "Testing and the Generalised Covariance Measure", 2020, "The Annals of Statistics"),
    "espinosa2023towards": ("inproceedings", "Espinosa Zarlenga, Mateo and Barbiero, Pietro and Shams, Zohreh and "
        "Kazhdan, Dmitry and Bhatt, Umang and Weller, Adrian and Jamnik, Mateja",
        "Towards Robust Metrics for Concept Representation Evaluation", 2023,
        "AAAI Conference on Artificial Intelligence"),
    "parisini2025leakage": ("article", "Parisini, Enrico and Chakraborti, Tapabrata and Harbron, Chris and MacArthur, "
        "Ben D. and Banerji, Christopher R. S.", "Leakage and Interpretability in Concept-Based Models", 2025,
        "arXiv:2504.14094"),
    "brier1950verification": ("article", "Brier, Glenn W.", "Verification of Forecasts Expressed in Terms of "
        "Probability", 1950, "Monthly Weather Review"),
    "kumar2019verified": ("inproceedings", "Kumar, Ananya and Liang, Percy S. and Ma, Tengyu",
        "Verified Uncertainty Calibration", 2019, "Advances in Neural Information Processing Systems"),
    "monteiro2023axioms": ("inproceedings", "Monteiro, Miguel and De Sousa Ribeiro, Fabio and Pawlowski, Nick and "
        "Castro, Daniel C. and Glocker, Ben", "Measuring Axiomatic Soundness of Counterfactual Image Models", 2023,
        "International Conference on Learning Representations"),
    "locatello2019fairness": ("inproceedings", "Locatello, Francesco and Abbati, Gabriele and Rainforth, Thomas and "
        'Bauer, Stefan and Sch{\\"o}lkopf, Bernhard and Bachem, Olivier', "On the Fairness of Disentangled "
        "Representations", 2019, "Advances in Neural Information Processing Systems"),
    "shu2020weakly": ("inproceedings", "Shu, Rui and Chen, Yining and Kumar, Abhishek and Ermon, Stefano and "
        "Poole, Ben", "Weakly Supervised Disentanglement with Guarantees", 2020,
        "International Conference on Learning Representations"),
    "gaudi2025coind": ("inproceedings", "Gaudi, Sachit and Sreekumar, Gautam and Boddeti, Vishnu Naresh",
        "{CoInD}: Enabling Logical Compositions in Diffusion Models", 2025,
        "International Conference on Learning Representations"),
    "szekely2013energy": ("article", "Sz{\\'e}kely, G{\\'a}bor J. and Rizzo, Maria L.",
        "Energy Statistics: A Class of Statistics Based on Distances", 2013,
        "Journal of Statistical Planning and Inference"),
    "melistas2024benchmarking": ("inproceedings", "Melistas, Thomas and Spyrou, Nikos and Gkouti, Nefeli and Sanchez, "
        "Pedro and Vlontzos, Athanasios and Panagakis, Yannis and Papanastasiou, Giorgos and Tsaftaris, Sotirios A.",
        "Benchmarking Counterfactual Image Generation", 2024, "Advances in Neural Information Processing Systems"),
    "heusel2017gans": ("inproceedings", "Heusel, Martin and Ramsauer, Hubert and Unterthiner, Thomas and Nessler, "
        "Bernhard and Hochreiter, Sepp", "{GAN}s Trained by a Two Time-Scale Update Rule Converge to a Local Nash "
        "Equilibrium", 2017, "Advances in Neural Information Processing Systems"),
    "binkowski2018demystifying": ("inproceedings", "Bi{\\'n}kowski, Miko{\\l}aj and Sutherland, Danica J. and Arbel, "
        "Michael and Gretton, Arthur", "Demystifying {MMD} {GAN}s", 2018,
        "International Conference on Learning Representations"),
    "kynkaanniemi2019improved": ("inproceedings", 'Kynk{\\"a}{\\"a}nniemi, Tuomas and Karras, Tero and Laine, Samuli '
        "and Lehtinen, Jaakko and Aila, Timo", "Improved Precision and Recall Metric for Assessing Generative Models",
        2019, "Advances in Neural Information Processing Systems"),
    "naeem2020reliable": ("inproceedings", "Naeem, Muhammad Ferjad and Oh, Seong Joon and Uh, Youngjung and Choi, "
        "Yunjey and Yoo, Jaejun", "Reliable Fidelity and Diversity Metrics for Generative Models", 2020,
        "International Conference on Machine Learning"),
    "kingma2014auto": ("inproceedings", "Kingma, Diederik P. and Welling, Max", "Auto-Encoding Variational {B}ayes",
        2014, "International Conference on Learning Representations"),
    "burda2016importance": ("inproceedings", "Burda, Yuri and Grosse, Roger and Salakhutdinov, Ruslan",
        "Importance Weighted Autoencoders", 2016, "International Conference on Learning Representations"),
    "chen2018isolating": ("inproceedings", "Chen, Ricky T. Q. and Li, Xuechen and Grosse, Roger and Duvenaud, David",
        "Isolating Sources of Disentanglement in Variational Autoencoders", 2018,
        "Advances in Neural Information Processing Systems"),
    "eastwood2018framework": ("inproceedings", "Eastwood, Cian and Williams, Christopher K. I.",
        "A Framework for the Quantitative Evaluation of Disentangled Representations", 2018,
        "International Conference on Learning Representations"),
    "kumar2018variational": ("inproceedings", "Kumar, Abhishek and Sattigeri, Prasanna and Balakrishnan, Avinash",
        "Variational Inference of Disentangled Latent Concepts from Unlabeled Observations", 2018,
        "International Conference on Learning Representations"),
    "ridgeway2018learning": ("inproceedings", "Ridgeway, Karl and Mozer, Michael C.",
        "Learning Deep Disentangled Embeddings with the {F}-Statistic Loss", 2018,
        "Advances in Neural Information Processing Systems"),
    "hsu2023disentanglement": ("inproceedings", "Hsu, Kyle and Dorrell, Will and Whittington, James C. R. and Wu, "
        "Jiajun and Finn, Chelsea", "Disentanglement via Latent Quantization", 2023,
        "Advances in Neural Information Processing Systems"),
    "suter2019robustly": ("inproceedings", "Suter, Raphael and Miladinovi{\\'c}, {\\DJ}or{\\dj}e and "
        'Sch{\\"o}lkopf, Bernhard and Bauer, Stefan', "Robustly Disentangled Causal Mechanisms: Validating Deep "
        "Representations for Interventional Robustness", 2019, "International Conference on Machine Learning"),
    "kim2018disentangling": ("inproceedings", "Kim, Hyunjik and Mnih, Andriy", "Disentangling by Factorising", 2018,
        "International Conference on Machine Learning"),
    "higgins2017beta": ("inproceedings", "Higgins, Irina and Matthey, Loic and Pal, Arka and Burgess, Christopher and "
        "Glorot, Xavier and Botvinick, Matthew and Mohamed, Shakir and Lerchner, Alexander",
        "beta-{VAE}: Learning Basic Visual Concepts with a Constrained Variational Framework", 2017,
        "International Conference on Learning Representations"),
    "holm1979simple": ("article", "Holm, Sture", "A Simple Sequentially Rejective Multiple Test Procedure", 1979,
        "Scandinavian Journal of Statistics"),
    "efron1993introduction": ("book", "Efron, Bradley and Tibshirani, Robert J.", "An Introduction to the Bootstrap",
        1993, "Chapman \\& Hall"),
}  # fmt: skip
"""Citation key -> kind, authors, title, year, and journal, conference or publisher."""

_PLACES = {"article": "journal", "inproceedings": "booktitle", "book": "publisher"}

SOURCES = {
    "density": (
        "wang2009divergence", "eastwood2018framework", "delong1988areas", "espinosa2023towards", "parisini2025leakage",
    ),
    "measurement": ("yao2025measurement", "shah2020hardness", "holm1979simple"),
    "locality": ("joy2021ccvae",),
    "drift": ("lewis1995fast", "wang2004ssim"),
    "diversity": ("joy2021ccvae",),
    "accuracy": ("brier1950verification", "kumar2019verified"),
    "intervention": (
        "monteiro2023axioms", "szekely2013energy", "melistas2024benchmarking", "locatello2019fairness",
        "gaudi2025coind",
    ),
    "generation": (
        "heusel2017gans", "binkowski2018demystifying", "kynkaanniemi2019improved", "naeem2020reliable",
    ),
    "reconstruction": ("kingma2014auto", "burda2016importance", "wang2004ssim"),
    "disentanglement": (
        "chen2018isolating", "eastwood2018framework", "kumar2018variational", "ridgeway2018learning",
        "hsu2023disentanglement", "suter2019robustly", "kim2018disentangling", "higgins2017beta",
        "shu2020weakly",
    ),
    "compare": ("holm1979simple", "efron1993introduction", "delong1988areas"),
}  # fmt: skip
"""Sources of each built-in metric, and of the comparison of models."""


def bibtex(keys: Iterable[str]) -> str:
    """BibTeX entries.

    Args:
        keys: citation keys of ``SOURCES``.
    """
    return "\n".join(map(_entry, keys))


def _entry(key: str) -> str:
    kind, authors, title, year, place = _ENTRIES[key]
    fields = {"author": authors, "title": title, _PLACES[kind]: place, "year": str(year)}
    lines = (f"  {name} = {{{value}}}," for name, value in fields.items())
    return f"@{kind}{{{key},\n" + "\n".join(lines) + "\n}\n"
