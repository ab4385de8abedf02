package admin

import "strings"

// endingLeast is the fewest characters that may stand for an id. Of ten messages
// two have the same four once in twenty thousand times.
const endingLeast = 4

// idLength is the length of a whole id.
const idLength = 26

// IDEnding reports whether text may be the end of the id of a message, and
// returns it as ids are written. Ids are shortened to their end, as those that
// are made at one time begin alike: the first ten characters are the time, and
// within a millisecond all but the last seven may be the same.
func IDEnding(text string) (ending string, ok bool) {
	ending = strings.ToUpper(strings.TrimSpace(text))
	if len(ending) < endingLeast || len(ending) >= idLength {
		return "", false
	}
	return ending, strings.Trim(ending, "0123456789ABCDEFGHJKMNPQRSTVWXYZ") == ""
}
