package config

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestChanged(t *testing.T) {
	a, b := New(), New()
	a.SMTP, b.SMTP = []SMTP{NewSMTP(), NewSMTP()}, []SMTP{NewSMTP(), NewSMTP()}
	require.Empty(t, Changed(a, b))
	b.SMTP[1].Listen = "0.0.0.0:2525"
	b.Cluster.Peers = []string{"n2=10.0.0.2:7170"}
	b.Limits.Recipients++
	b.POP3 = append(b.POP3, NewPOP3())
	require.Equal(t, []string{"cluster.peers", "smtp[1].listen", "pop3", "limits.recipients"}, Changed(a, b))
}
