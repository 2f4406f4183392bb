"""Configurations that ship with astroclip, as YAML files beside this one."""
