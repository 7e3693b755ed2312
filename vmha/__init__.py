"""vmha keeps the virtual machines of an OpenStack cloud running when a host, a hypervisor process or a guest dies."""
