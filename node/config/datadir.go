package config

import (
	"errors"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"syscall"
)

// checkDataDir reports a data directory that this user can not use: where it can't
// be entered, the node in it would look as if there were none.
func (c *Config) checkDataDir(r *report) {
	const key = "node.data_dir"
	dir := c.Node.DataDir
	if !filepath.IsAbs(dir) {
		return // reported already
	}
	const cure = ": give it to that user with 'chown -R %[1]s %[3]s', or run relayd as its owner"
	identity := filepath.Join(dir, "identity.json")
	_, inside := os.Stat(identity)
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrPermission) || errors.Is(inside, fs.ErrPermission):
		r.add(key, "user %s may not enter %s"+cure, userName(), dir, dir)
	case err == nil && info.IsDir() && denied(dir, mayWrite|mayEnter):
		r.add(key, "user %s may not write to %s"+cure, userName(), dir, dir)
	case inside == nil && denied(identity, mayRead):
		r.add(key, "user %s may not read %s"+cure, userName(), identity, dir)
	case errors.Is(err, fs.ErrNotExist):
		if parent := filepath.Dir(dir); !isDir(parent) {
			r.add(key, "there is no directory %s: make it with 'mkdir -p %[1]s', or mount the disk that belongs there", parent)
		}
	case err == nil && !info.IsDir():
		r.add(key, "%s is not a directory", dir)
	}
}

// Rights that access(2) is asked for.
const (
	mayEnter = 1
	mayWrite = 2
	mayRead  = 4
)

// denied reports whether this user lacks a right.
func denied(path string, right uint32) bool {
	return errors.Is(syscall.Access(path, right), fs.ErrPermission)
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// userName is the user that this process runs as.
func userName() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return "of this process"
}
