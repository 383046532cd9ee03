"""How a device is reached: the local machine today; every transport behind one interface."""
