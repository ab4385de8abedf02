package spool_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPrefixesAreUnique: no two kinds of records begin with the same octet. The compiler sees
// two kinds of commands with one number, but not this.
func TestPrefixesAreUnique(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "keys.go", nil, 0)
	require.NoError(t, err)
	of := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 || !strings.HasPrefix(spec.Names[0].Name, "k") {
			return true
		}
		if lit, ok := spec.Values[0].(*ast.BasicLit); ok && lit.Kind == token.CHAR {
			require.Empty(t, of[lit.Value], "%s has the same prefix", spec.Names[0].Name)
			of[lit.Value] = spec.Names[0].Name
		}
		return true
	})
	require.Greater(t, len(of), 30)
}
