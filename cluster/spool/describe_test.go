package spool

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestTheAuditLogNamesNoCommandOfTheCode: each command with an audit line is said
// in the operator's words.
func TestTheAuditLogNamesNoCommandOfTheCode(t *testing.T) {
	own := []Kind{KindImport, KindRaise, KindClock, KindGeneration} // make lines of their own
	for kind, header := range headers {
		h := header()
		if slices.Contains(own, kind) || h.ProtoReflect().Descriptor().Fields().ByName("admin") == nil &&
			kind != KindUseToken && kind != KindPutSecret {
			continue
		}
		require.NotContains(t, describe(h), string(h.ProtoReflect().Descriptor().Name()))
	}
}
