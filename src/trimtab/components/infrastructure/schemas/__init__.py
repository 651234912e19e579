"""What a provider's kinds are called and look like in the API, and what differs between two values of one."""
