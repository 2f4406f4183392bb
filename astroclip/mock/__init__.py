"""A small sky with known truth, written in the surveys' own file formats.

The one room that needs the extra ``astroclip[mock]`` (GalSim, kcorrect, speclite), and the one besides
`catalog` and `surveys` that touches FITS and HDF5: it writes what those two read.
"""
