package arch

import (
	"bytes"
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
