# Words of a text: counted, changed, sorted. Without modules, which need a library.
my (%count, $changed, $vowels);
for my $round (1 .. $ARGV[0]) {
    open my $in, '<', $ARGV[1] or die $!;
    while (<$in>) {
        $count{$_}++ for split;
        $vowels += tr/aeiou//;
        $changed++ if s/(\w+)tor\b/$1ting/g;
    }
}
my @order = sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count;
printf "%d words, %d vowels, %d lines changed\n", scalar @order, $vowels, $changed;
print "$_ $count{$_}\n" for @order[0 .. 49];
