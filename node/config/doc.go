// Package config reads, checks and describes the configuration of one node:
// a strict TOML file, overridden key by key from the environment. It knows
// what the keys mean for each other but starts nothing.
package config
