// The program that links one room whole: that it links is the test.
int main() { return 0; }
