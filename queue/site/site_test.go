package site

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestNames(t *testing.T) {
	table, err := Parse([]string{"Ours mx.ours.example .mx2.ours.example", "qq", "google gmail-mx.example"})
	require.NoError(t, err)
	for _, c := range []struct {
		domain string
		hosts  []string
		want   string
	}{
		{"x.example", []string{"x-example.mail.protection.outlook.com"}, "outlook"},
		{"X.example", nil, "x.example"},
		{"x.example", []string{""}, "x.example"},
		{"x.example", []string{"mx1.b.example.org", "MX2.b.example.org."}, "b.example.org~"},
		{"x.example", []string{"mx1.b.example.org", "mx.c.example.org"}, "example.org~"},
		{"x.example", []string{"mx.b.example.org"}, "mx.b.example.org"},
		{"x.example", []string{"a.co.uk", "b.co.uk"}, "a.co.uk~"},
		{"x.example", []string{"mta5.am0.yahoodns.net", "mta6.am0.yahoodns.net"}, "yahoo"},
		{"x.example", []string{"mta5.am0.yahoodns.net", "backup.b.example.org"}, "backup.b.example.org~"},
		{"x.example", []string{"a.mx.ours.example"}, "ours"},
		{"x.example", []string{"a.mx.ours.example", "mx2.ours.example"}, "ours"},
		{"x.example", []string{"notmx.ours.example"}, "notmx.ours.example"},
		{"x.example", []string{"mx3.qq.com"}, "mx3.qq.com"},
		{"x.example", []string{"aspmx.l.google.com"}, "aspmx.l.google.com"},
		{"x.example", []string{"mx1.gmail-mx.example"}, "google"},
	} {
		require.Contains(t, table.Name(c.domain, c.hosts), c.want, "%v", c.hosts)
	}
	for _, bad := range []string{
		"", "a b", "Ä a.example", "ours com", "ours co.uk", "ours .", "-x a.example", "ours a..b",
	} {
		_, err := Parse([]string{bad})
		require.Error(t, err, bad)
	}
	_, err = Parse([]string{"a x.example", "A y.example"})
	require.ErrorContains(t, err, "site 2: a is there twice")
	require.Contains(t, table.Rows(), "ours mx.ours.example mx2.ours.example")
	require.NotContains(t, fmt.Sprint(table.Rows()), "qq")
}

// TestRowsCanBeRead: what the table lists can be read again.
func TestRowsCanBeRead(t *testing.T) {
	table, err := Parse(nil)
	require.NoError(t, err)
	require.Len(t, table.Rows(), len(builtIn))
	again, err := Parse(table.Rows())
	require.NoError(t, err)
	require.Equal(t, table.Rows(), again.Rows())
}

func TestSitesAreRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New()
		require.True(t, s.Due("x.example"))
		require.Empty(t, s.Of("x.example"))
		s.Learn("X.example", []string{"mx.b.example.org"})
		require.False(t, s.Due("X.example"))
		require.Equal(t, "mx.b.example.org", s.Of("x.EXAMPLE"))
		own, err := Parse([]string{"b b.example.org"})
		require.NoError(t, err)
		s.SetTable(own)
		require.Equal(t, "b", s.Of("x.example"))
		time.Sleep(keep)
		require.True(t, s.Due("x.example"))
		require.Equal(t, "b", s.Of("x.example"), "until another answer comes")
	})
}
