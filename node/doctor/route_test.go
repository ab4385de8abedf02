package doctor

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestRoutesAreNamedAsCommandsDo: the next step can be typed.
func TestRoutesAreNamedAsCommandsDo(t *testing.T) {
	for name, want := range map[string][2]string{
		"*":                      {"*", ""},
		"x.example":              {"x.example", ""},
		"* from @a.example":      {"*", " --from '@a.example'"},
		"* login u@a.example":    {"*", " --login 'u@a.example'"},
		"x from <> login u@a.ex": {"x", " --from '<>' --login 'u@a.ex'"},
	} {
		domain, senders := routeNamed(name)
		require.Equal(t, want, [2]string{domain, senders})
	}
}
