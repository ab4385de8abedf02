package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Name servers refuse a zone with a string of more than 255 octets.
func TestZoneText(t *testing.T) {
	require.Equal(t, `"v=DKIM1; p=abc"`, zoneText("v=DKIM1; p=abc"))
	require.Equal(t, `"`+strings.Repeat("a", 255)+`"`, zoneText(strings.Repeat("a", 255)))
	require.Equal(t, `"`+strings.Repeat("a", 255)+`" "`+strings.Repeat("b", 137)+`"`, zoneText(strings.Repeat("a", 255)+strings.Repeat("b", 137)))
}
