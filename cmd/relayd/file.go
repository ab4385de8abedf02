package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
)

// writeFile replaces a file as a whole: a reader sees the old content or the
// new, never a part.
func writeFile(path string, data []byte, mode os.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Chmod(mode), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
	}
	return err
}

// makeDir makes a directory and those above it, and names the cure where this user
// may not.
func makeDir(dir string) error {
	err := os.MkdirAll(dir, 0o755)
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	name := "this user"
	if u, e := user.Current(); e == nil {
		name = "user " + u.Username
	}
	return fmt.Errorf("%s may not make %s: make it as root and give it to that user, or name another directory", name, dir)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
