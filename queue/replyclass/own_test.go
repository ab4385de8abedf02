package replyclass

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOwnRules(t *testing.T) {
	table, err := Parse([]string{
		"rate 554 5.7.1 Slow-Down, please", "blocklist listed at example.org", "greylist 45 come ... back*", "full 599",
		"content 4.7.999",
	})
	require.NoError(t, err)
	for reply, want := range map[string]Class{
		"554 5.7.1 (slow down please!)":                 Rate,
		"554 5.7.2 slow down please":                    Rate, // the built-in rule
		"554 5.7.1 user unknown, slow down":             Rate,
		"550 5.1.1 User unknown, listed at EXAMPLE.ORG": Blocklist,
		"451 come tomorrow, backwards":                  Greylist,
		"551 come back":                                 BadAddress,
		"599 what":                                      Full,
		"450 4.7.999 what":                              Content,
		"550 5.7.999 what":                              Content,
		"250 listed at example.org":                     None,
		"":                                              None,
		"4.4.1 connection refused":                      Network,
		"4.4.1 not tried: the destination does not answer: 599 what": Full,
	} {
		require.Equal(t, want.String(), table.Of(reply).String(), reply)
	}
	require.Zero(t, testing.AllocsPerRun(100, func() { table.Of("550 5.1.1 User unknown, listed at EXAMPLE.ORG") }))
}

func TestOwnRulesThatAreNone(t *testing.T) {
	table, err := Parse(nil)
	require.NoError(t, err)
	require.Nil(t, table)
	require.Equal(t, Greylist, table.Of("451 greylisted"))
	require.Equal(t, None, table.Of("250 Ok"))
	for rule, words := range map[string]string{
		"":                   "empty",
		"spam 550":           "its class is not one of bad_address, full",
		"full":               "neither a code nor words",
		"full ab":            "too short",
		"full ab*":           "too short",
		"full !!!":           "too short",
		"full a@example.org": "too short",
		"full abc ... ..":    "too short",
		"full " + strings.Repeat("a", MaxRuleLen): "longer than",
	} {
		_, err := Parse([]string{"full 552", rule})
		require.ErrorContains(t, err, "rule 2: ", rule)
		require.ErrorContains(t, err, words, rule)
	}
	_, err = Parse(make([]string, MaxRules+1))
	require.ErrorContains(t, err, "at most 200")
	var many []string
	for i := range MaxRules {
		many = append(many, fmt.Sprintf("policy 550 5.7.1 rule number %d", i))
	}
	table, err = Parse(many)
	require.NoError(t, err)
	require.Equal(t, Policy, table.Of("550 5.7.1 user unknown by rule number 199"))
}

func FuzzParse(f *testing.F) {
	f.Add("rate 554 5.7.1 slow ... down*", "554 5.7.1 slow down")
	f.Fuzz(func(t *testing.T, rule, reply string) {
		if table, err := Parse([]string{rule}); err == nil {
			table.Of(reply)
		}
	})
}
