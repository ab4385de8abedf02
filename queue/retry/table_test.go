package retry

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/queue/replyclass"
)

func parse(t *testing.T, rules ...string) *Table {
	t.Helper()
	table, err := Parse(rules)
	require.NoError(t, err)
	return table
}

// TestEachValueIsOfTheFirstRuleThatNamesIt: rules add to each other.
func TestEachValueIsOfTheFirstRuleThatNamesIt(t *testing.T) {
	table := parse(t,
		"slow.example greylist first=2m",
		"* greylist first=5m max=15m",
		".example first=10m factor=3",
		"slow.example max=1h expire=2d notice=never",
		"* expire=3d notice=1h",
	)
	for _, c := range []struct {
		domain string
		class  replyclass.Class
		want   Values
	}{
		{"slow.example", replyclass.Greylist,
			Values{First: 2 * time.Minute, Max: 15 * time.Minute, Factor: 3, Lifetime: 48 * time.Hour, Notice: Never}},
		{"slow.example", replyclass.None,
			Values{First: 10 * time.Minute, Max: time.Hour, Factor: 3, Lifetime: 48 * time.Hour, Notice: Never}},
		{"example", replyclass.Full, Values{Lifetime: 72 * time.Hour, Notice: time.Hour}}, // itself is not below it
		{"other.test", replyclass.Greylist,
			Values{First: 5 * time.Minute, Max: 15 * time.Minute, Lifetime: 72 * time.Hour, Notice: time.Hour}},
	} {
		require.Equal(t, c.want, table.Of(c.domain, c.class), "%s %s", c.domain, c.class)
	}
	require.True(t, table.Classes())
	require.True(t, table.Ages())
	require.True(t, table.About(replyclass.Greylist))
	require.False(t, table.About(replyclass.Full))
	require.Equal(t, Values{Lifetime: 48 * time.Hour, Notice: time.Hour}, table.Least())
	require.Equal(t, time.Hour, table.Longest())
}

// TestNoRules cost nothing and say nothing.
func TestNoRules(t *testing.T) {
	table := parse(t)
	require.Nil(t, table)
	require.Zero(t, table.Of("a.example", replyclass.Full))
	require.Zero(t, table.Least())
	require.Zero(t, table.Longest())
	require.False(t, table.Classes() || table.Ages() || table.About(replyclass.Full))
	require.False(t, parse(t, "* first=1m").Ages())
}

func TestBadRulesSayWhatIsWrong(t *testing.T) {
	for rule, want := range map[string]string{
		"":                              "says nothing",
		"example.com":                   "says nothing",
		"example.com greylist":          "says nothing",
		"example.com grey first=1m":     "neither a class",
		"first=1m max=2m":               "not a domain",
		"a..b first=1m":                 "not a domain",
		". first=1m":                    "not a domain",
		"*.example.com first=1m":        "all below",
		"bücher.example first=1m":       "xn--",
		"* first=1m last=2m":            "none of first, max",
		"* first=1m greylist":           "not a value",
		"* first=soon":                  "not a time",
		"* first=0s":                    "not a time",
		"* first=99999999999999999999w": "not a time",
		"* first=4000d":                 "not a time",
		"* first=-5m":                   "not a time",
		"* first=1m first=2m":           "twice",
		"* factor=2 factor=2":           "twice",
		"* factor=0.5":                  "from 1 to 100",
		"* factor=NaN":                  "from 1 to 100",
		"* first=2h max=1h":             "longer than max=1h",
		"* greylist expire=1d":          "without one",
		"* full notice=never":           "without one",
		"* max=never":                   "not a time",
		"* first=1m" + strings.Repeat(" ", MaxRuleLen): "longer than",
	} {
		_, err := Parse([]string{"* first=1m", rule})
		require.ErrorContains(t, err, want, rule)
		require.ErrorContains(t, err, "rule 2: ", rule)
	}
	_, err := Parse(make([]string, MaxRules+1))
	require.ErrorContains(t, err, "at most")
}

// TestSpan: a rule can be written as it was read.
func TestSpan(t *testing.T) {
	for _, text := range []string{"1s", "90s", "5m", "4h", "5d", "2w"} {
		d, err := parseSpan(text)
		require.NoError(t, err)
		require.Equal(t, text, Span(d))
	}
}
