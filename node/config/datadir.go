package config

import (
	"errors"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
)

// checkDataDir reports a data directory that this user can not use: where it can't
// be entered, the node in it would look as if there were none.
func (c *Config) checkDataDir(r *report) {
	const key = "node.data_dir"
	dir := c.Node.DataDir
	if !filepath.IsAbs(dir) {
		return // reported already
	}
	_, inside := os.Stat(filepath.Join(dir, "identity.json"))
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrPermission) || errors.Is(inside, fs.ErrPermission):
		r.add(key, "user %s may not enter %s: give it to that user with 'chown -R %[1]s %[2]s', or run relayd as its owner",
			userName(), dir)
	case errors.Is(err, fs.ErrNotExist):
		if parent := filepath.Dir(dir); !isDir(parent) {
			r.add(key, "there is no directory %s: make it with 'mkdir -p %[1]s', or mount the disk that belongs there", parent)
		}
	case err == nil && !info.IsDir():
		r.add(key, "%s is not a directory", dir)
	}
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
