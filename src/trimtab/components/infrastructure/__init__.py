"""Infrastructure: any Terraform provider becomes kinds that keep themselves true."""
