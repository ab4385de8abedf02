package config

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// MinToken is how many characters a token of the admin API has at least where
// the API listens on other addresses than loopback.
const MinToken = 16

// makeToken is the cure for tokens that are absent or short.
const makeToken = "(umask 077; head -c 24 /dev/urandom | base64 > %s)"

// TokenPath is the file that the tokens of the admin API are in: the one that
// is named, else admin.token in the data directory. It is empty where the
// configuration holds the token itself. Only a file that is named must exist.
func (c *Config) TokenPath() string {
	switch {
	case c.Admin.Token != "":
		return ""
	case c.Admin.TokenFile != "":
		return c.Admin.TokenFile
	}
	return filepath.Join(c.Node.DataDir, "admin.token")
}

// Tokenless reports whether there is no token: neither a key nor a file.
func (c *Config) Tokenless() bool {
	if c.Admin.Token != "" || c.Admin.TokenFile != "" {
		return false
	}
	_, err := os.Stat(c.TokenPath())
	return os.IsNotExist(err)
}

// Warnings says what works, but should not stay as it is.
func (c *Config) Warnings() (all []string) {
	for _, p := range c.Unwise {
		all = append(all, p.String())
	}
	return all
}

// warnOfToken finds an admin API that is open to every program of this machine, or to
// nobody.
func (c *Config) warnOfToken(warn func(key, format string, args ...any)) {
	path := c.TokenPath()
	if c.Tokenless() {
		cure := fmt.Sprintf(makeToken, path)
		if a := c.Admin.AnonymousLoopback; a == nil {
			warn("admin", "has no token, so every user and program of this machine may use the admin API: "+
				"make one with '%s' and reload, or set anonymous_loopback = true if it is to stay so", cure)
		} else if !*a {
			warn("admin", "has no token and anonymous_loopback is false, so nobody may use the admin API: "+
				"make one with '%s' and reload", cure)
		}
		return
	}
	if info, err := os.Stat(path); path != "" && err == nil && info.Mode().Perm()&0o007 != 0 {
		warn("admin", "every user of this machine may read %s: 'chmod 600 %[1]s' keeps the token secret", path)
	}
}

// checkTokenFile wants a token in the file, and long ones where strangers may try.
func (c *Config) checkTokenFile(r *report) {
	const key = "admin.token_file"
	path := c.Admin.TokenFile
	if !readable(r, key, path, fmt.Sprintf("'"+makeToken+"' makes one", path)) {
		return
	}
	data, err := os.ReadFile(path)
	if err != nil {
		r.add(key, "%v", err)
		return
	}
	if len(bytes.TrimSpace(data)) == 0 {
		r.add(key, "the file %s is empty: '%s' writes a token", path, fmt.Sprintf(makeToken, path))
		return
	}
	if !loopback(c.Admin.Listen) {
		checkTokens(r, key, path, string(data))
	}
}

// checkTokens reports tokens that can be guessed. They are not shown.
func checkTokens(r *report, key, where, tokens string) {
	n := 0
	for line := range strings.Lines(tokens) {
		n++
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(words[0], "#") || len(words[len(words)-1]) >= MinToken {
			continue
		}
		if strings.Contains(tokens, "\n") {
			where = fmt.Sprintf("line %d of %s", n, where)
		}
		r.add(key, "%s is shorter than %d characters, which can be guessed, and admin.listen is not a loopback address: "+
			"'head -c 24 /dev/urandom | base64' makes a token", where, MinToken)
		return
	}
}
