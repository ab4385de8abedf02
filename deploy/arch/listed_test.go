package arch

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestListedTestsAreThere: the list of inputs in node/nodetest/doc.go names tests
// that exist, in the packages that it names.
func TestListedTestsAreThere(t *testing.T) {
	doc, err := os.ReadFile("../../node/nodetest/doc.go")
	require.NoError(t, err)
	declared := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	have := map[string]bool{}
	for _, path := range written(t, "*_test.go") {
		src, err := os.ReadFile(filepath.Join("../..", path))
		if os.IsNotExist(err) {
			continue // removed, and not yet committed
		}
		require.NoError(t, err)
		for _, m := range declared.FindAllSubmatch(src, -1) {
			have[filepath.ToSlash(filepath.Dir(path))+" "+string(m[1])] = true
		}
	}
	listed := 0
	for line := range strings.Lines(string(doc)) {
		for part := range strings.SplitSeq(line, ";") {
			in := "node/nodetest"
			for word := range strings.FieldsSeq(strings.ReplaceAll(part, ",", " ")) {
				switch {
				case strings.HasPrefix(word, "Test"):
					listed++
					require.True(t, have[in+" "+word], "%s has no %s", in, word)
				case word != "//":
					in = word
				}
			}
		}
	}
	require.Greater(t, listed, 50)
}
