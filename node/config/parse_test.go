package config

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Mistakes of people who do not know TOML are told in plain words, with the cure.
func TestSyntaxInPlainWords(t *testing.T) {
	for _, c := range []struct{ line, by, want string }{
		{`id = "n1"  `, `id = n1`, `line 10: id: a text stands in quotes: id = "n1"`},
		{`id = "n1"  `, `id = "n1`, `line 10: id: the quote at the end of the text is missing`},
		{`hostname = "mx1.example.com"`, `hostname = mx1.example.com`,
			`line 11: hostname: a text stands in quotes: hostname = "mx1.example.com"`},
		{`listen = "0.0.0.0:25"`, `listen = 0.0.0.0:25  # all`,
			`line 23: listen: a text stands in quotes: listen = "0.0.0.0:25"`},
		{`max_message_size = "50MB"`, `max_message_size = 50MB`,
			`line 94: max_message_size: a text stands in quotes: max_message_size = "50MB"`},
		{`[[pop3]]`, `[pop3]`, `line 55: table pop3 already exists: write [[pop3]] at each`},
		{`[tls]   `, `[admin] `, `line 76: table admin already exists: keep its keys together under one`},
		{`default: the system's name`, "\xe9", `line 11: the file is not UTF-8 text: save it as such`},
	} {
		_, problems := Parse([]byte(strings.ReplaceAll(Default(), c.line, c.by)), noEnv)
		require.NotEmpty(t, problems, c.by)
		require.Equal(t, c.want, problems[0].String())
	}
	_, problems := Parse([]byte("\xef\xbb\xbf"+Default()), noEnv)
	require.Empty(t, problems, "a byte order mark")
	_, err := Load("/no/such.toml")
	require.EqualError(t, err, "there is no file /no/such.toml; 'relayd config default' prints one to begin with")
}
