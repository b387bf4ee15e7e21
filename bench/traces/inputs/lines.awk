# Prints COUNT lines of random words, the same each time: mawk -v COUNT=45000 -f lines.awk
BEGIN {
    x = 12345
    for (i = 0; i < COUNT; i++) {
        line = ""
        for (j = 0; j < 3 + i % 5; j++) {
            x = (x * 1103515245 + 12345) % 2147483648
            line = line sprintf("%07x ", int(x / 8))
        }
        print line i
    }
}
