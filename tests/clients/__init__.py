"""Clients that people use, installed as they are and configured by `infbox-watch client`."""
