"""Joint service caching and computation offloading in mobile edge networks, on PyTorch Lightning."""
