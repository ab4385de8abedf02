//go:build !linux

package main

import "syscall"

// reaperVerb is of Linux.
const reaperVerb = "-reaper"

func ownMounts() *syscall.SysProcAttr { return nil }

func reap([]string) int { return 2 }
