package node

import (
	"testing"

	"github.com/stretchr/testify/require"

	"relay/node/config"
	"relay/pop3"
)

func TestExtensionsOfConfigurations(t *testing.T) {
	for _, name := range config.POP3Extensions() {
		_, ok := pop3.ParseExtension(name)
		require.True(t, ok, name)
	}
	c := config.NewPOP3()
	with, without := extensions(&c)
	require.Zero(t, with|without)
	c.XLOG, c.UIDBeyondSnapshot, c.Without = true, false, []string{"sleep", "qaut"}
	with, without = extensions(&c)
	require.Equal(t, pop3.Xlog, with)
	require.Equal(t, pop3.LateUID|pop3.Sleep|pop3.Qaut, without)
}
