//go:build !linux

package main

import "syscall"

// childAttr is empty where a child can not be tied to its parent's death.
func childAttr() *syscall.SysProcAttr { return nil }
