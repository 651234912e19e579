"""The plugin protocol of Terraform providers, 5 and 6, behind one face: types, values, schemas, proposals, and the process itself."""
