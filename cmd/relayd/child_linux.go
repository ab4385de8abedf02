package main

import "syscall"

// childAttr ties a node to this process: killed with it, but not stopped by the
// terminal's Ctrl-C, which the parent turns into an orderly end.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
