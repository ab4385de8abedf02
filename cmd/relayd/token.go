package main

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"relay/node/config"
)

// namedToken makes the file that [admin] token_file of a configuration names,
// where it is absent and its directory is there.
func namedToken(cfg *config.Config) error {
	file := cfg.Admin.TokenFile
	if !filepath.IsAbs(file) || !exists(filepath.Dir(file)) {
		return nil
	}
	return makeToken(file, rand.Text())
}

// ensureToken makes the token of a new node's admin API, unless there is one.
func ensureToken(cfg *config.Config) error {
	path := cfg.TokenPath()
	if path == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return makeToken(path, rand.Text())
}

// makeToken writes a file with a token for its owner alone. A file that is
// there stays.
func makeToken(path, token string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(token + "\n")
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		_ = os.Remove(path)
	}
	return err
}

// tokenNote says where the token is.
func tokenNote(cfg *config.Config) string {
	if path := cfg.TokenPath(); path != "" {
		return " The token of its admin API is in " + path + "."
	}
	return ""
}
