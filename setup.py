"""Metadata of the distribution `macrec-hf`, which installs the package `macrec_hf` and the command `macrec`."""

from pathlib import Path

from setuptools import find_packages, setup

# The lower bounds are the versions that the tests were run with (constraints.txt pins them). What breaks with an older
# transformers stands in docs/architecture.md, "Upkeep"; of the others nothing older was tried, but torch 2.11, which
# trained and evaluated on a GPU.
REQUIREMENTS = [
    "torch>=2.11.0",
    "transformers>=5.23.0,<6",
    "tokenizers>=0.23.3",
    "huggingface_hub>=2.4.0",
    "accelerate>=1.15.0",
    "datasets>=5.2.0",
    "evaluate>=0.4.6",
    "safetensors>=0.8.0",
    "scikit-learn>=1.9.1",
    "scipy>=1.17.1",
    "numpy>=2.4.6",
    "pandas>=3.1.1",
    "pyarrow>=26.0.1",
    "pillow>=12.3.0",
    "pyyaml>=6.0.3",
    "jinja2>=3.1.6",
    "tqdm>=4.70.1",
]

APP = ["gradio>=6.31.0,<7"]
TEST = ["pytest>=9.2.0", "pytest-xdist>=3.8.0", "hypothesis>=6.170.15", "tensorboard>=2.21.0"]
QUALITY = [
    "ruff>=0.17.6",
    "mypy>=2.4.1",
    "pandas-stubs>=3.1.0.261029",
    "types-PyYAML>=6.0.12.20261113",
    "types-tqdm>=4.70.0.20261106",
]
DOCS = [
    "mkdocs>=1.6.1,<2",
    "mkdocs-material>=9.8.1,<10",
    "mkdocstrings>=1.0.8",
    "mkdocstrings-python>=2.0.11",
    "latex2mathml>=3.81.1",
]

setup(
    name="macrec-hf",
    version="0.1.0",
    description="Multi-aspect cross-modal quantization for generative recommendation, as a Hugging Face package",
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["macrec_hf", "macrec_hf.*"]),
    package_data={"": ["py.typed", "*.css", "*.js", "*.json", "*.jinja", "templates/*"]},
    install_requires=REQUIREMENTS,
    extras_require={
        "app": APP,
        "baselines": ["cornac>=3.0.1,<4"],
        "test": TEST,
        "tensorboard": ["tensorboard>=2.21.0"],
        "trackio": ["trackio>=0.43.0"],
        "docs": DOCS,
        "dev": [*TEST, *APP, "playwright>=1.65.2", *QUALITY, *DOCS],
    },
    entry_points={"console_scripts": ["macrec = macrec_hf.cli:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Intended Audience :: Developers",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
