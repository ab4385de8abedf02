package config

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// The store's memory is a size, or left to the program.
func TestCacheOfTheStore(t *testing.T) {
	require.Equal(t, AutoCache, New().Storage.Cache)
	for text, want := range map[string]AutoSize{
		`"auto"`: AutoCache, `" Auto "`: AutoCache, `"64MB"`: AutoSize(64 * MB), `67108864`: AutoSize(64 * MB),
	} {
		c, _ := Parse([]byte("[storage]\ncache = "+text+"\n"), noEnv)
		require.NotNil(t, c, text)
		require.Equal(t, want, c.Storage.Cache, text)
		data, err := c.Marshal()
		require.NoError(t, err)
		again, _ := Parse(data, noEnv)
		require.Equal(t, want, again.Storage.Cache, text)
	}
	c, _ := Parse(nil, env("RELAY_STORAGE_CACHE", "32MB"))
	require.Equal(t, AutoSize(32*MB), c.Storage.Cache)
}

func TestCacheThatIsNone(t *testing.T) {
	for text, want := range map[string]string{
		`"lots"`:   `"lots" is neither "auto" nor a size such as "64MB"`,
		`0`:        `"0" is neither "auto" nor a size such as "64MB"`,
		`true`:     `must be "auto" or a size such as "64MB", not true or false`,
		`"512KB"`:  `512KB is not between 1MB and 1TB`,
		`"1025GB"`: `1025GB is not between 1MB and 1TB`,
	} {
		_, problems := Parse([]byte("[storage]\ncache = "+text+"\n"), noEnv)
		found := false
		for _, p := range problems {
			found = found || p.Key == "storage.cache" && p.Text == want
		}
		require.True(t, found, "%s: %v", text, problems)
	}
}
