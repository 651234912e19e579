//go:build tools

// Package providers pins the Terraform providers that the tests talk to.
package providers

import _ "github.com/hetznercloud/terraform-provider-hcloud"
