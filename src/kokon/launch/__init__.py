"""What a launch is given: the launch document and the guest image. Public data only; every room may import this one."""
