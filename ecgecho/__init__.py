"""ecgecho: teach ECG students from echo studies that were decoded and embedded once."""

__version__ = "0.1.0"
