package config

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"

	"github.com/pelletier/go-toml/v2"
)

//go:embed default.toml
var annotated string

// Default returns the annotated default file.
func Default() string { return annotated }

// Load reads a file and the environment and checks both, the files they name
// included. The error is an *Invalid where there are mistakes.
func Load(path string) (*Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, unreadable(err)
	}
	c, r, problem := parse(data, os.LookupEnv)
	if problem != nil {
		return nil, &Invalid{Path: path, Problems: []Problem{*problem}}
	}
	c.checkFiles(r)
	if problems := r.sorted(); len(problems) > 0 {
		return nil, &Invalid{Path: path, Problems: problems}
	}
	c.warnOfFiles(r)
	return c, nil
}

// Check returns all mistakes of a file and the environment, none where Load
// would succeed.
func Check(path string) []Problem {
	_, err := Load(path)
	var invalid *Invalid
	switch {
	case err == nil:
		return nil
	case errors.As(err, &invalid):
		return invalid.Problems
	}
	return []Problem{{Text: err.Error()}}
}

// Parse reads a document, lets the environment override it, and checks the
// values but not the files they name. The Config is nil where the document is
// not TOML; else it holds whatever could be read, with derived defaults
// (hostname, advertise, url) filled in.
func Parse(data []byte, lookup func(string) (string, bool)) (*Config, []Problem) {
	c, r, problem := parse(data, lookup)
	if problem != nil {
		return nil, []Problem{*problem}
	}
	return c, r.sorted()
}

func parse(data []byte, lookup func(string) (string, bool)) (*Config, *report, *Problem) {
	tree, lines, problem := syntax(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))) // some editors begin with that
	if problem != nil {
		return nil, nil, problem
	}
	r := &report{lines: lines, env: map[string]string{}, bad: map[string]bool{}}
	c := New()
	decode(r, "", tree, reflect.ValueOf(c).Elem())
	override(r, "", reflect.ValueOf(c).Elem(), lookup)
	r.decoded()
	c.derive()
	c.check(r)
	return c, r, nil
}

// Problems checks a Config that a program has made, but not the files it
// names, and fills in derived defaults.
func (c *Config) Problems() []Problem {
	r := &report{}
	c.derive()
	c.check(r)
	return r.sorted()
}

// Marshal writes a configuration as a file that Parse reads back.
func (c *Config) Marshal() ([]byte, error) { return toml.Marshal(c) }

func unreadable(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		var path *fs.PathError
		name := ""
		if errors.As(err, &path) {
			name = " " + path.Path
		}
		return fmt.Errorf("there is no file%s; 'relayd config default' prints one to begin with", name)
	}
	return err
}
