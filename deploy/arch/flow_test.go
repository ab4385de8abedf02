package arch

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestFlowNamesFilesThatExist: FLOW.md and CONTRIBUTING.md lead a reader to files.
// One that is named with a path is there; one without is somewhere in the tree.
func TestFlowNamesFilesThatExist(t *testing.T) {
	base := map[string]bool{}
	for _, path := range written(t, "*.go", "*.md", "*.toml", "*.proto") {
		if _, err := os.Stat(filepath.Join("../..", path)); err == nil {
			base[path], base[filepath.Base(path)] = true, true
		}
	}
	name := regexp.MustCompile("`([a-z0-9_/]+\\.(?:go|md|toml|proto))`|([a-zA-Z]+/[A-Za-z]+\\.md)")
	for _, page := range []string{"deploy/FLOW.md", ".github/CONTRIBUTING.md"} {
		text, err := os.ReadFile(filepath.Join("../..", page))
		require.NoError(t, err)
		found := name.FindAllStringSubmatch(string(text), -1)
		require.NotEmpty(t, found, page)
		for _, m := range found {
			if file := m[1] + m[2]; !base[file] {
				t.Errorf("%s names %s, which is not there", page, file)
			}
		}
	}
}
