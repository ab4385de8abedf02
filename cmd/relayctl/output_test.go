package main

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"
)

// Strangers' words that a former build kept can still be shown.
func TestYAMLOfAnyText(t *testing.T) {
	want := map[string]string{"reply": "a\u0085\u009b2J\x7f\u202e\u2028\ufeff\ufffe\U000e0041 ü\n\"\\"}
	var out bytes.Buffer
	require.NoError(t, writeYAML(&out, want))
	var got map[string]string
	require.NoError(t, yaml.Unmarshal(out.Bytes(), &got))
	require.Equal(t, want, got)
	require.NotContains(t, out.String(), "\u009b")
}
