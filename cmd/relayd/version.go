package main

import "relay/cmd/internal/release"

// version is the semantic version of what was built.
func version() string { return release.Version() }
