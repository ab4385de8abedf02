package deploy

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"

	"relay/node/config"
)

func TestSampleIsWhatTheProgramPrints(t *testing.T) {
	sample, err := os.ReadFile("relay.toml")
	require.NoError(t, err)
	require.Equal(t, config.Default(), string(sample), "copy what 'relayd config default' prints to deploy/relay.toml")
	parses(t, sample, nil)
}

func TestComposeConfiguration(t *testing.T) {
	data, err := os.ReadFile("compose/compose.yaml")
	require.NoError(t, err)
	var compose struct {
		Services map[string]struct{ Environment map[string]string }
	}
	require.NoError(t, yaml.Unmarshal(data, &compose))
	file, err := os.ReadFile("compose/relay.toml")
	require.NoError(t, err)
	for _, id := range []string{"n1", "n2", "n3"} {
		c := parses(t, file, compose.Services[id].Environment)
		require.Equal(t, id, c.Node.ID)
		require.Equal(t, id+":7170", c.Cluster.Advertise)
		require.Len(t, c.Cluster.Join, 2, "n1 makes the cluster where no other answers, the others join")
	}
}

func parses(t *testing.T, file []byte, env map[string]string) *config.Config {
	t.Helper()
	c, problems := config.Parse(file, func(name string) (string, bool) { v, ok := env[name]; return v, ok })
	require.Empty(t, problems)
	return c
}

// Without netlink a node cannot learn its addresses, and mail by MX waits.
func TestUnitAllowsWhatTheProgramNeeds(t *testing.T) {
	unit, err := os.ReadFile("systemd/relay.service")
	require.NoError(t, err)
	require.Regexp(t, `(?m)^RestrictAddressFamilies=.*\bAF_NETLINK\b`, string(unit))
}

// TestMessagesNameGuidePagesThatExist: a page that errors and log lines send a reader
// to is there, under that title.
func TestMessagesNameGuidePagesThatExist(t *testing.T) {
	pages, err := filepath.Glob("guide/*.md")
	require.NoError(t, err)
	titles := map[string]bool{}
	for _, p := range pages {
		text, err := os.ReadFile(p)
		require.NoError(t, err)
		title, _, _ := strings.Cut(string(text), "\n")
		titles[strings.TrimPrefix(title, "# ")] = true
	}
	// A constant may be put together of several literals.
	joined, named := regexp.MustCompile(`"\s*\+\s*"`), regexp.MustCompile(`see \\?["'“]([^"'“”\\]+)\\?["'”] in the guide`)
	found := 0
	err = filepath.WalkDir("..", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		code := joined.ReplaceAllString(string(text), "")
		all := named.FindAllStringSubmatch(code, -1)
		require.Len(t, all, strings.Count(code, "in the guide"), "%s: say: see \"TITLE\" in the guide", path)
		for _, m := range all {
			require.True(t, titles[m[1]], "%s names %q, which is no page of deploy/guide", path, m[1])
			found++
		}
		return nil
	})
	require.NoError(t, err)
	require.NotZero(t, found)
}
