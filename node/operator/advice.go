package operator

import (
	"fmt"
	"slices"

	pb "relay/cluster/spool/spoolpb"
	"relay/node/wording"
	"relay/queue/replyclass"
	"relay/queue/retry"
)

// reactions say which settings would help with what deferred mail waits for, and are not made.
func reactions(classes map[string]uint64, s *pb.Settings) (words []string) {
	own, _ := retry.Parse(s.GetRetryRules())
	if n := classes[replyclass.Greylist.String()]; n > 0 && !own.About(replyclass.Greylist) {
		words = append(words, fmt.Sprintf("%s put off by greylisting: a retry rule '* greylist first=5m max=15m' "+
			"('relayctl settings set --retry') tries again sooner", are(n)))
	}
	if n := classes[replyclass.Rate.String()]; n > 0 && !slices.Contains(s.GetSlowClasses(), replyclass.Rate.String()) {
		words = append(words, fmt.Sprintf("%s put off because too much comes at a time: 'relayctl settings set "+
			"--slow-on rate' sends less to a destination that says so", are(n)))
	}
	return words
}

func are(n uint64) string {
	if n == 1 {
		return "1 recipient is"
	}
	return wording.Counted(n, "recipient") + " are"
}
