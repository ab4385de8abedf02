package arch

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// packageMost bounds the lines of a package, without tests and generated code: a
// package has one subject, and a reader finds it at once.
const packageMost = 6000

// TestPackagesAreSmall: cluster/spool, the state machine, is the one exception.
func TestPackagesAreSmall(t *testing.T) {
	lines := map[string]int{}
	for _, path := range written(t, "*.go") {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		src, err := os.ReadFile(filepath.Join("../..", path))
		if os.IsNotExist(err) {
			continue // removed, and not yet committed
		}
		require.NoError(t, err)
		lines[filepath.ToSlash(filepath.Dir(path))] += bytes.Count(src, []byte("\n"))
	}
	for dir, n := range lines {
		if n > packageMost && dir != "cluster/spool" {
			t.Errorf("%s has %d lines, and may have %d: give a subject of it a package of its own", dir, n, packageMost)
		}
	}
}

// functionMost bounds the lines of a function.
const functionMost = 60

// TestFunctionsAreShort: a reader sees a function at a glance. Tests may list their cases.
func TestFunctionsAreShort(t *testing.T) {
	for _, path := range written(t, "*.go") {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		files := token.NewFileSet()
		file, err := parser.ParseFile(files, filepath.Join("../..", path), nil, 0)
		if os.IsNotExist(err) {
			continue // removed, and not yet committed
		}
		require.NoError(t, err)
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok {
				if n := files.Position(f.End()).Line - files.Position(f.Pos()).Line + 1; n > functionMost {
					t.Errorf("%s: %s has %d lines, and may have %d", path, f.Name.Name, n, functionMost)
				}
			}
		}
	}
}
