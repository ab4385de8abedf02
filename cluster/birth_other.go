//go:build !linux

package cluster

func birthOf(string) string { return "" }
