"""How steps reach the devices: one by one on CPUs, many in one program on accelerators."""
