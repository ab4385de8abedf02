//go:build !linux

package cluster

func bootID() string { return "" }
