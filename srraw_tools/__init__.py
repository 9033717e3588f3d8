"""srraw: make real zoom data with any camera (Zoom to Learn, Learn to Zoom, CVPR 2019)."""

__version__ = "0.1.0"
