"""Search spaces: genotypes, operations, the search network and the final networks."""

from search_spaces.darts.final_network import FinalNetwork
from search_spaces.darts.search_network import SearchNetwork
from search_spaces.derivation import derive_top_two, top_two
from search_spaces.genotype import Cell, Genotype
from search_spaces.mixing import Mixing
from search_spaces.operations import OPERATIONS, get_operation, operation
from search_spaces.space import CELL_TYPES, CellSpace
from search_spaces.zoo import load_genotype, load_genotypes, parse_genotypes, zoo

__all__ = ["CELL_TYPES", "OPERATIONS", "Cell", "CellSpace", "FinalNetwork", "Genotype", "Mixing",
           "SearchNetwork", "derive_top_two", "get_operation", "load_genotype", "load_genotypes",
           "operation", "parse_genotypes", "top_two", "zoo"]
