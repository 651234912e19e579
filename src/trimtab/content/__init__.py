"""Content-addressed blobs, OCI images and registries, the image builder."""
