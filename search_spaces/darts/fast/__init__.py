"""The fast search network."""
from search_spaces.darts.fast.network import FastSearchNetwork
