# Fields of a text: sums, the longest words, a little arithmetic.
{
    fields += NF
    for (i = 1; i <= NF; i++) {
        n = length($i)
        lengths[n]++
        if (n > 12)
            long[substr($i, 1, 6)]++
    }
    if ($0 ~ /trans[a-z]*tor/)
        matched++
    value = (value * 31 + length($0)) % 1000003
}
END {
    for (n = 1; n < 20; n++)
        print n, lengths[n]
    for (word in long)
        kinds++
    print fields, matched, value, kinds
}
